from formed.integrations.torch import DataParallelDistributor

distributor = DataParallelDistributor(
    device_ids=[0, 1, 2, 3],  # GPUs to use (None = all available)
)
