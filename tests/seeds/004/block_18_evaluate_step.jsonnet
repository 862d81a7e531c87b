{
  steps: {
    evaluation: {
      type: 'torch::evaluate',
      model: { type: 'ref', ref: 'trained_model' },
      dataloader: {
        type: 'formed.integrations.ml:DataLoader',
        sampler: { type: 'basic', batch_size: 64 },
        collator: { type: 'ref', ref: 'datamodule.batch' },
      },
      evaluator: { type: 'my_evaluator' },
      dataset: { type: 'ref', ref: 'test_instances' },
      device: 'cuda:0',
    },
  },
}
