from torch.cuda.amp import GradScaler, autocast

model = model.cuda()
optimizer = HybridBFO(model.parameters())
scaler = GradScaler()

def amp_closure():
    optimizer.zero_grad()
    
    with autocast():
        output = model(data)
        loss = criterion(output, target)
    
    # Scale loss and compute gradients
    scaled_loss = scaler.scale(loss)
    scaled_loss.backward()
    
    # Unscale for BFO
    scaler.unscale_(optimizer)
    
    return loss.item()

# Training step
loss = optimizer.step(amp_closure)
scaler.update()
