from formed.integrations.torch import (
    BaseTorchModel,
    TorchTrainer,
    DefaultTorchTrainingEngine,
    EvaluationCallback,
    EarlyStoppingCallback,
    modules as ftm,
)
from formed.integrations.ml import (
    DataLoader,
    BasicBatchSampler,
    MulticlassAccuracy,
    DataModule,
    Tokenizer,
    LabelIndexer,
    Extra,
)
import dataclasses
import torch

# 1. Define DataModule
class TextClassificationDataModule(DataModule):
    text: Tokenizer
    label: Extra[LabelIndexer] = Extra.default()

# 2. Define model using reusable modules
@dataclasses.dataclass
class ClassifierOutput:
    probs: torch.Tensor
    label: torch.Tensor
    loss: torch.Tensor | None = None

@BaseTorchModel.register("text_classifier")
class TextClassifier(BaseTorchModel):
    def __init__(
        self,
        num_classes: int,
        embedder: ftm.BaseEmbedder,
        encoder: ftm.BaseSequenceEncoder,
        vectorizer: ftm.BaseSequenceVectorizer,
        dropout: float = 0.1,
    ):
        super().__init__()
        self._embedder = embedder
        self._encoder = encoder
        self._vectorizer = vectorizer
        self._dropout = torch.nn.Dropout(dropout)
        self._classifier = torch.nn.Linear(
            vectorizer.get_output_dim(), num_classes
        )
        self._loss = ftm.CrossEntropyLoss()

    def forward(self, inputs, params=None):
        embeddings, mask = self._embedder(inputs.text)
        embeddings = self._encoder(embeddings, mask=mask)
        vector = self._vectorizer(embeddings, mask=mask)
        vector = self._dropout(vector)
        logits = self._classifier(vector)
        probs = torch.nn.functional.softmax(logits, dim=-1)
        label = logits.argmax(dim=-1)

        loss = None
        if inputs.label is not None:
            loss = self._loss(logits, inputs.label)

        return ClassifierOutput(probs=probs, label=label, loss=loss)

# 3. Prepare data
datamodule = TextClassificationDataModule(
    text=Tokenizer(),
    label=LabelIndexer(),
)

with datamodule.train():
    train_instances = [datamodule.instance(ex) for ex in train_data]
val_instances = [datamodule.instance(ex) for ex in val_data]

# 4. Create data loaders
train_loader = DataLoader(
    sampler=BasicBatchSampler(batch_size=32, shuffle=True),
    collator=datamodule.batch,
)

# 5. Define evaluator
class Evaluator:
    def __init__(self):
        self.accuracy = MulticlassAccuracy()

    def update(self, inputs, output):
        preds = output.label.tolist()
        targets = inputs.label.tolist()
        self.accuracy.update(
            self.accuracy.Input(predictions=preds, targets=targets)
        )

    def compute(self):
        return self.accuracy.compute()

    def reset(self):
        self.accuracy.reset()

# 6. Create model (can also be done from configuration)
model = TextClassifier(
    num_classes=2,
    embedder=ftm.TokenEmbedder(
        embedding_dim=128,
        vocab_size=10000,
    ),
    encoder=ftm.LSTMSequenceEncoder(
        input_size=128,
        hidden_size=256,
        num_layers=2,
        bidirectional=True,
    ),
    vectorizer=ftm.BagOfEmbeddingsSequenceVectorizer(),
    dropout=0.2,
)

# 7. Create trainer
trainer = TorchTrainer(
    train_dataloader=train_loader,
    engine=DefaultTorchTrainingEngine(
        optimizer=torch.optim.Adam,
        optimizer_params={"lr": 1e-3},
        loss="loss",  # Extract loss from ClassifierOutput
    ),
    max_epochs=10,
    eval_strategy="epoch",
    callbacks=[
        EvaluationCallback(Evaluator()),
        EarlyStoppingCallback(patience=3, metric="-loss"),
    ],
)

# 8. Train model
state = trainer.train(model, train_instances, val_instances)
