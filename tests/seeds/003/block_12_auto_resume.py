from lightning.pytorch.callbacks import OnExceptionCheckpoint

trainer = L.Trainer(
    callbacks=[OnExceptionCheckpoint("checkpoints/")],
)

# Resume after crash
trainer.fit(model, ckpt_path="checkpoints/on_exception.ckpt")
