{
  model: {
    type: 'text_classifier',
    num_classes: 2,
    embedder: {
      type: 'token',
      embedding_dim: 128,
      vocab_size: 10000,
    },
    encoder: {
      type: 'lstm',
      hidden_size: 256,
      num_layers: 2,
      bidirectional: true,
    },
    vectorizer: {
      type: 'bag_of_embeddings',
    },
    feedforward: {
      input_dim: 512,  # 256 * 2 (bidirectional)
      hidden_dims: [256, 128],
      activations: 'relu',
    },
    dropout: 0.2,
  },
}
