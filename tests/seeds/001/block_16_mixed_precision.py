from torch.cuda.amp import autocast, GradScaler

scaler = GradScaler()

for epoch in range(100):
    for batch in dataloader:
        optimizer.zero_grad()
        
        with autocast():
            output = model(batch.input)
            loss = criterion(output, batch.target)
        
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
