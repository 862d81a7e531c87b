class MultiTaskLoss(nn.Module):
    def __init__(self, num_tasks):
        super().__init__()
        self.uncertainty_loss = torchium.losses.UncertaintyWeightingLoss(num_tasks)
        self.task_losses = [
            torchium.losses.MSELoss(),
            torchium.losses.CrossEntropyLoss(),
            torchium.losses.DiceLoss()
        ]

    def forward(self, predictions, targets):
        losses = []
        for i, (pred, target) in enumerate(zip(predictions, targets)):
            loss = self.task_losses[i](pred, target)
            losses.append(loss)
        
        return self.uncertainty_loss(losses)

criterion = MultiTaskLoss(num_tasks=3)
