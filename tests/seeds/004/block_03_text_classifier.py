from formed.integrations.torch import BaseTorchModel
from formed.integrations.torch import modules as ftm
from formed.integrations.ml import types as mlt
import dataclasses
import torch

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
        encoder: ftm.BaseSequenceEncoder | None = None,
        vectorizer: ftm.BaseSequenceVectorizer | None = None,
        feedforward: ftm.FeedForward | None = None,
        sampler: ftm.BaseLabelSampler | None = None,
        loss: ftm.BaseClassificationLoss | None = None,
        dropout: float = 0.1,
    ):
        super().__init__()

        # Use defaults if not provided
        vectorizer = vectorizer or ftm.BagOfEmbeddingsSequenceVectorizer()
        sampler = sampler or ftm.ArgmaxLabelSampler()
        loss = loss or ftm.CrossEntropyLoss()

        # Determine output dimension through the pipeline
        feature_dim = self._determine_feature_dim(
            embedder, encoder, vectorizer, feedforward
        )

        self._embedder = embedder
        self._encoder = encoder
        self._vectorizer = vectorizer
        self._feedforward = feedforward
        self._dropout = torch.nn.Dropout(dropout)
        self._classifier = torch.nn.Linear(feature_dim, num_classes)
        self._sampler = sampler
        self._loss = loss

    def forward(self, inputs, params=None):
        # inputs: batch from DataModule (e.g., TextClassificationDataModule[AsBatch])
        embeddings, mask = self._embedder(inputs.text)

        if self._encoder is not None:
            embeddings = self._encoder(embeddings, mask=mask)

        vector = self._vectorizer(embeddings, mask=mask)

        if self._feedforward is not None:
            vector = self._feedforward(vector)

        vector = self._dropout(vector)
        logits = self._classifier(vector)
        probs = torch.nn.functional.softmax(logits, dim=-1)
        label = self._sampler(logits)

        loss = None
        if inputs.label is not None:
            loss = self._loss(logits, inputs.label)

        return ClassifierOutput(probs=probs, label=label, loss=loss)
