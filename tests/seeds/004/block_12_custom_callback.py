from formed.integrations.torch import TorchTrainingCallback

@TorchTrainingCallback.register("my_callback")
class MyCallback(TorchTrainingCallback):
    def on_epoch_end(self, trainer, model, state, epoch):
        print(f"Completed epoch {epoch}")
        # Save checkpoint, log custom metrics, etc.

    def on_eval_end(self, trainer, model, state, metrics):
        print(f"Validation metrics: {metrics}")
