from torch.utils.checkpoint import checkpoint

class LitModel(L.LightningModule):
    def forward(self, x):
        # Checkpoint expensive layers
        x = checkpoint(self.encoder, x, use_reentrant=False)
        return self.decoder(x)
