# TorchScript
model = LitModel.load_from_checkpoint("best.ckpt")
script = model.to_torchscript()
torch.jit.save(script, "model.pt")

# ONNX
model.to_onnx("model.onnx", input_sample=torch.randn(1, 784))
