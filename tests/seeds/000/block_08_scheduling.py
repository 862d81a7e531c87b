class BFOScheduler:
    def __init__(self, optimizer, schedule_fn):
        self.optimizer = optimizer
        self.schedule_fn = schedule_fn
        self.epoch = 0
    
    def step(self):
        # Update BFO parameters
        params = self.schedule_fn(self.epoch)
        for key, value in params.items():
            if key in self.optimizer.defaults:
                self.optimizer.defaults[key] = value
        self.epoch += 1

# Define schedule
def schedule(epoch):
    return {
        'step_size_max': 0.1 * (0.95 ** epoch),
        'elim_prob': min(0.5, 0.25 * (1.05 ** epoch))
    }

scheduler = BFOScheduler(optimizer, schedule)

# Use in training
for epoch in range(num_epochs):
    train_epoch()
    scheduler.step()
