class GANLossCombination(nn.Module):
    def __init__(self):
        super().__init__()
        self.gan_loss = torchium.losses.GANLoss()
        self.perceptual_loss = torchium.losses.PerceptualLoss()
        self.feature_matching_loss = torchium.losses.FeatureMatchingLoss()

    def forward(self, fake_pred, real_pred, fake_features, real_features):
        gan_loss = self.gan_loss(fake_pred, real_pred)
        perceptual_loss = self.perceptual_loss(fake_features, real_features)
        feature_matching_loss = self.feature_matching_loss(fake_features, real_features)
        
        return gan_loss + 0.1 * perceptual_loss + 0.1 * feature_matching_loss
