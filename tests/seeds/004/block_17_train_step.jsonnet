{
  steps: {
    # Prepare data
    datamodule_and_instances: {
      type: 'ml::train_datamodule_with_instances',
      dataset: { type: 'ref', ref: 'dataset' },
      datamodule: { type: 'my_datamodule', ... },
    },

    # Train model
    trained_model: {
      type: 'torch::train',
      model: {
        type: 'text_classifier',
        vocab_size: 10000,
        embedding_dim: 128,
        hidden_dim: 256,
        num_classes: 2,
      },
      trainer: {
        train_dataloader: {
          type: 'formed.integrations.ml:DataLoader',
          sampler: {
            type: 'basic',
            batch_size: 32,
            shuffle: true,
          },
          collator: { type: 'ref', ref: 'datamodule_and_instances.datamodule.batch' },
        },
        engine: {
          type: 'default',
          optimizer: { type: 'torch.optim:Adam', lr: 0.001 },
          loss: 'loss',
        },
        max_epochs: 10,
        eval_strategy: 'epoch',
        callbacks: [
          { type: 'evaluation', evaluator: { type: 'my_evaluator' } },
          { type: 'early_stopping', patience: 3, metric: '-loss' },
        ],
      },
      train_dataset: { type: 'ref', ref: 'datamodule_and_instances.instances' },
      val_dataset: { type: 'ref', ref: 'val_instances' },
      random_seed: 42,
      device: 'cuda:0',
    },
  },
}
