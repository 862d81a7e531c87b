def configure_optimizers(self):
    opt1 = torch.optim.Adam(self.encoder.parameters(), lr=1e-3)
    opt2 = torch.optim.Adam(self.decoder.parameters(), lr=1e-4)

    sched1 = torch.optim.lr_scheduler.StepLR(opt1, step_size=10)
    sched2 = torch.optim.lr_scheduler.CosineAnnealingLR(opt2, T_max=100)

    return (
        {"optimizer": opt1, "lr_scheduler": {"scheduler": sched1, "interval": "epoch"}},
        {"optimizer": opt2, "lr_scheduler": {"scheduler": sched2, "interval": "step"}},
    )
