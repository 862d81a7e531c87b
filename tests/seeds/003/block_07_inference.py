class LitModel(L.LightningModule):
    def predict_step(self, batch, batch_idx):
        x, _ = batch
        with torch.inference_mode():
            return self(x)

# Batch inference
trainer = L.Trainer(accelerator="gpu", devices=1)
predictions = trainer.predict(model, dataloaders=test_loader)
