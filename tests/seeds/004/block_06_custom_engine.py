class CustomTrainingEngine(TorchTrainingEngine):
    def create_state(self, trainer, model):
        # Initialize optimizer, scheduler, etc.
        optimizer = torch.optim.Adam(model.parameters())
        return TrainState(model=model, optimizer=optimizer)

    def train_step(self, inputs, state, trainer):
        state.model.train()
        state.optimizer.zero_grad()

        output = state.model(inputs)
        loss = output["loss"]
        loss.backward()

        state.optimizer.step()
        return output

    def eval_step(self, inputs, state, trainer):
        state.model.eval()
        with torch.no_grad():
            output = state.model(inputs)
        return output
