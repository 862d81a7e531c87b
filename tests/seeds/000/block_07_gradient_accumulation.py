accumulation_steps = 4
optimizer = BFO(model.parameters())

def accumulated_closure():
    total_loss = 0
    
    for i in range(accumulation_steps):
        # Get mini-batch
        data, target = next(data_iter)
        
        with torch.no_grad():
            output = model(data)
            loss = criterion(output, target) / accumulation_steps
            total_loss += loss.item()
    
    return total_loss

# Step every accumulation_steps
if step % accumulation_steps == 0:
    loss = optimizer.step(accumulated_closure)
