import pytest

def test_model_forward():
    model = LitModel()
    x = torch.randn(4, 784)
    out = model(x)
    assert out.shape == (4, 10)

def test_training_step():
    model = LitModel()
    batch = (torch.randn(4, 784), torch.randint(0, 10, (4,)))
    loss = model.training_step(batch, 0)
    assert loss.ndim == 0  # Scalar loss

def test_full_training():
    model = LitModel()
    dm = MNISTDataModule()
    trainer = L.Trainer(fast_dev_run=True)
    trainer.fit(model, datamodule=dm)
