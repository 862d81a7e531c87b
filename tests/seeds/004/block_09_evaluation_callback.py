from formed.integrations.torch import EvaluationCallback
from formed.integrations.ml import MulticlassAccuracy

# Define evaluator
class MyEvaluator:
    def __init__(self):
        self.accuracy = MulticlassAccuracy()

    def update(self, inputs, output):
        predictions = output["logits"].argmax(dim=-1).tolist()
        targets = inputs.label.tolist()
        self.accuracy.update(
            self.accuracy.Input(predictions=predictions, targets=targets)
        )

    def compute(self):
        return self.accuracy.compute()

    def reset(self):
        self.accuracy.reset()

# Use in trainer
trainer = TorchTrainer(
    ...,
    callbacks=[EvaluationCallback(MyEvaluator())],
)
