import pytorch_lightning as pl
from pytorch_bfo_optimizer import BFO, HybridBFO

class LitModel(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(784, 128),
            nn.ReLU(),
            nn.Linear(128, 10)
        )
        self.criterion = nn.CrossEntropyLoss()
        
    def forward(self, x):
        return self.model(x)
    
    def configure_optimizers(self):
        # Use HybridBFO for gradient compatibility
        optimizer = HybridBFO(
            self.parameters(),
            population_size=20,
            gradient_weight=0.5
        )
        return optimizer
    
    def training_step(self, batch, batch_idx):
        x, y = batch
        
        # Custom closure for BFO
        def closure():
            self.zero_grad()
            y_hat = self(x)
            loss = self.criterion(y_hat, y)
            self.manual_backward(loss)
            return loss.item()
        
        # Manual optimization
        opt = self.optimizers()
        loss_val = opt.step(closure)
        
        # Logging
        self.log('train_loss', loss_val)
        return {'loss': loss_val}
    
    def configure_callbacks(self):
        # Custom callback for BFO monitoring
        return [BFOCallback()]

class BFOCallback(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        # Access optimizer state
        opt = trainer.optimizers[0]
        if hasattr(opt, 'best_fitness'):
            trainer.logger.log_metrics({
                'best_fitness': opt.best_fitness,
                'population_diversity': opt._compute_diversity()
            }, step=trainer.global_step)

# Training
model = LitModel()
trainer = pl.Trainer(
    max_epochs=10,
    automatic_optimization=False  # Required for BFO
)
trainer.fit(model, train_dataloader)
