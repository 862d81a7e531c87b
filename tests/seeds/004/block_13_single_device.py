from formed.integrations.torch import SingleDeviceDistributor

distributor = SingleDeviceDistributor(device="cuda:0")
