import torch
import torch.nn as nn
import torchium

model = nn.Linear(10, 1)

# Basic SAM
optimizer = torchium.optimizers.SAM(
    model.parameters(),
    lr=1e-3,
    rho=0.05,  # Perturbation radius
    adaptive=False
)

# Training loop with SAM
for epoch in range(100):
    # First forward pass
    output = model(x)
    loss = criterion(output, y)
    loss.backward()
    
    # SAM perturbation step
    optimizer.first_step(zero_grad=True)
    
    # Second forward pass
    output = model(x)
    loss = criterion(output, y)
    loss.backward()
    
    # SAM update step
    optimizer.second_step(zero_grad=True)
