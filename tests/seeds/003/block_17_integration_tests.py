def test_overfitting():
    """Model should overfit small dataset."""
    model = LitModel()
    dm = MNISTDataModule(batch_size=8)

    trainer = L.Trainer(
        max_epochs=50,
        overfit_batches=1,
        enable_progress_bar=False,
    )
    trainer.fit(model, datamodule=dm)

    assert trainer.callback_metrics["train_loss"] < 0.01

def test_checkpointing(tmp_path):
    """Checkpoint should restore correctly."""
    model = LitModel()
    trainer = L.Trainer(max_epochs=2, default_root_dir=tmp_path)
    trainer.fit(model, train_dataloaders=...)

    ckpt_path = list(tmp_path.glob("**/*.ckpt"))[0]
    loaded = LitModel.load_from_checkpoint(ckpt_path)

    assert loaded.hparams == model.hparams
