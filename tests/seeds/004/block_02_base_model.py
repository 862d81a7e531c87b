BaseTorchModel[ModelInputT, ModelOutputT, ModelParamsT]
