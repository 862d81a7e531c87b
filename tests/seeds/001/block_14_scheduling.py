# Warmup + cosine annealing
def get_lr_scheduler(optimizer, warmup_epochs, total_epochs):
    def lr_lambda(epoch):
        if epoch < warmup_epochs:
            return epoch / warmup_epochs
        else:
            return 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / (total_epochs - warmup_epochs)))
    
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda)

scheduler = get_lr_scheduler(optimizer, warmup_epochs=10, total_epochs=100)

# Training loop with scheduler
for epoch in range(100):
    # Training step
    train_one_epoch(model, optimizer, criterion, dataloader)
    
    # Update learning rate
    scheduler.step()
