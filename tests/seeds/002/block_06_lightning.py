import pytorch_lightning as pl
import tracelet
from torch.utils.tensorboard import SummaryWriter

class LightningModelWithTracelet(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(28*28, 10)

        # Start Tracelet experiment
        self.experiment = tracelet.start_logging(
            exp_name="lightning_integration",
            project="pytorch_lightning",
            backend="mlflow"
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x.view(x.size(0), -1)
        y_hat = self.layer(x)
        loss = torch.nn.functional.cross_entropy(y_hat, y)

        # Log with TensorBoard (automatically captured by Tracelet)
        self.log('train_loss', loss)

        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        x = x.view(x.size(0), -1)
        y_hat = self.layer(x)
        loss = torch.nn.functional.cross_entropy(y_hat, y)

        self.log('val_loss', loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.001)

    def on_train_end(self):
        # Clean up Tracelet
        tracelet.stop_logging()
