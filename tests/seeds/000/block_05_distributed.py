import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP

def setup(rank, world_size):
    dist.init_process_group("nccl", rank=rank, world_size=world_size)

def train_ddp(rank, world_size):
    setup(rank, world_size)
    
    # Create model and move to GPU
    model = MyModel().to(rank)
    ddp_model = DDP(model, device_ids=[rank])
    
    # BFO with DDP considerations
    optimizer = BFO(
        ddp_model.parameters(),
        population_size=50 // world_size,  # Divide population
        device=f'cuda:{rank}'
    )
    
    # Synchronize fitness across processes
    def closure():
        output = ddp_model(data)
        loss = criterion(output, target)
        
        # All-reduce loss across processes
        dist.all_reduce(loss, op=dist.ReduceOp.SUM)
        loss /= world_size
        
        return loss.item()
    
    # Training loop
    for epoch in range(num_epochs):
        loss = optimizer.step(closure)
        
        # Synchronize best parameters
        if rank == 0:
            # Broadcast best parameters from rank 0
            for param in ddp_model.parameters():
                dist.broadcast(param.data, src=0)

# Launch
mp.spawn(train_ddp, args=(world_size,), nprocs=world_size)
