import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.utils.tensorboard import SummaryWriter
import tracelet

def train_worker(rank, world_size):
    # Initialize distributed training
    dist.init_process_group("nccl", rank=rank, world_size=world_size)

    # Only rank 0 handles experiment tracking
    if rank == 0:
        tracelet.start_logging(
            exp_name="distributed_training",
            project="multi_gpu",
            backend="mlflow"
        )
        writer = SummaryWriter()

    # Create model and move to GPU
    model = torch.nn.Linear(1000, 10).cuda(rank)
    model = torch.nn.parallel.DistributedDataParallel(model, device_ids=[rank])

    for epoch in range(100):
        # Training code here...
        loss = torch.randn(1).cuda(rank)  # Simulated loss

        # Gather losses from all ranks
        gathered_losses = [torch.zeros_like(loss) for _ in range(world_size)]
        dist.all_gather(gathered_losses, loss)

        # Only rank 0 logs metrics
        if rank == 0:
            avg_loss = torch.stack(gathered_losses).mean().item()
            writer.add_scalar("train_loss", avg_loss, epoch)

    if rank == 0:
        writer.close()
        tracelet.stop_logging()

# Launch distributed training
def main():
    world_size = torch.cuda.device_count()
    mp.spawn(train_worker, args=(world_size,), nprocs=world_size)

if __name__ == "__main__":
    main()
