class CombinedSegmentationLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.dice = torchium.losses.DiceLoss(smooth=1e-5)
        self.focal = torchium.losses.FocalLoss(alpha=0.25, gamma=2.0)
        self.tversky = torchium.losses.TverskyLoss(alpha=0.3, beta=0.7)
        self.lovasz = torchium.losses.LovaszLoss()

    def forward(self, pred, target):
        dice_loss = self.dice(pred, target)
        focal_loss = self.focal(pred, target)
        tversky_loss = self.tversky(pred, target)
        lovasz_loss = self.lovasz(pred, target)
        
        # Weighted combination
        total_loss = (0.4 * dice_loss + 
                     0.3 * focal_loss + 
                     0.2 * tversky_loss + 
                     0.1 * lovasz_loss)
        
        return total_loss

criterion = CombinedSegmentationLoss()
