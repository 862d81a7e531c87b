class LitModel(L.LightningModule):
    def configure_model(self):
        # Compile after model setup
        self.model = torch.compile(self.model)
