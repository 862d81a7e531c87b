import torch.nn as nn
from pytorch_bfo_optimizer import BFO

# Wrap model in DataParallel
model = nn.DataParallel(model)
optimizer = BFO(model.parameters(), population_size=50)

# Training remains the same
def closure():
    output = model(data)
    loss = criterion(output, target)
    return loss.item()

optimizer.step(closure)
