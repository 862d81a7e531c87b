class MultiTaskModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(10, 64)
        self.task1 = nn.Linear(64, 1)
        self.task2 = nn.Linear(64, 5)

model = MultiTaskModel()

# Use PCGrad for gradient surgery
optimizer = torchium.optimizers.PCGrad(
    model.parameters(),
    lr=1e-3
)

# Training with multiple tasks
for epoch in range(100):
    optimizer.zero_grad()
    
    # Forward passes for different tasks
    shared_features = model.shared(x)
    task1_output = model.task1(shared_features)
    task2_output = model.task2(shared_features)
    
    # Compute losses
    loss1 = criterion1(task1_output, y1)
    loss2 = criterion2(task2_output, y2)
    
    # PCGrad handles gradient conflicts
    optimizer.step([loss1, loss2])
