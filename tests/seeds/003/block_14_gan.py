class GAN(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False  # Disable auto optimization
        self.generator = Generator()
        self.discriminator = Discriminator()

    def training_step(self, batch, batch_idx):
        g_opt, d_opt = self.optimizers()

        # Train discriminator
        d_opt.zero_grad()
        d_loss = self.discriminator_loss(batch)
        self.manual_backward(d_loss)
        d_opt.step()

        # Train generator
        g_opt.zero_grad()
        g_loss = self.generator_loss(batch)
        self.manual_backward(g_loss)
        g_opt.step()

        self.log_dict({"g_loss": g_loss, "d_loss": d_loss})

    def configure_optimizers(self):
        g_opt = torch.optim.Adam(self.generator.parameters(), lr=1e-4)
        d_opt = torch.optim.Adam(self.discriminator.parameters(), lr=1e-4)
        return [g_opt, d_opt], []
