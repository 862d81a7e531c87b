from formed.integrations.torch import DistributedDataParallelDistributor

distributor = DistributedDataParallelDistributor(
    backend="nccl",           # Backend for distributed communication
    init_method="env://",     # Initialization method
)
