# Gradient clipping with different methods
def train_with_clipping(model, optimizer, criterion, dataloader, max_norm=1.0):
    for batch in dataloader:
        optimizer.zero_grad()
        output = model(batch.input)
        loss = criterion(output, batch.target)
        loss.backward()
        
        # Gradient clipping
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        
        optimizer.step()

# Or use built-in clipping for some optimizers
optimizer = torchium.optimizers.AdamW(
    model.parameters(),
    lr=1e-3,
    max_grad_norm=1.0  # Built-in gradient clipping
)
