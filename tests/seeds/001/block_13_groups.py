# Different optimizers for different parts
param_groups = [
    {
        'params': model.backbone.parameters(),
        'lr': 1e-4,
        'weight_decay': 1e-4
    },
    {
        'params': model.classifier.parameters(),
        'lr': 1e-3,
        'weight_decay': 1e-5
    },
    {
        'params': model.bn.parameters(),
        'lr': 1e-3,
        'weight_decay': 0  # No weight decay for batch norm
    }
]

optimizer = torchium.optimizers.AdamW(param_groups)

# Or use factory function for complex grouping
optimizer = torchium.utils.factory.create_optimizer_with_groups(
    model,
    'adamw',
    lr=1e-3,
    weight_decay=1e-4,
    no_decay=['bias', 'bn', 'ln']  # Exclude these from weight decay
)
