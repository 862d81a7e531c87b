from torch.utils.tensorboard import SummaryWriter

writer = SummaryWriter('runs/bfo_experiment')

class MonitoredBFO(BFO):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.step_count = 0
    
    def step(self, closure):
        # Regular step
        loss = super().step(closure)
        
        # Log metrics
        writer.add_scalar('Loss/train', loss, self.step_count)
        writer.add_scalar('BFO/best_fitness', self.best_fitness, self.step_count)
        writer.add_scalar('BFO/population_diversity', 
                         self._compute_diversity(), self.step_count)
        
        # Log population distribution
        if self.step_count % 100 == 0:
            writer.add_histogram('BFO/population', 
                               self.population.flatten(), self.step_count)
        
        self.step_count += 1
        return loss

# Use monitored optimizer
optimizer = MonitoredBFO(model.parameters())
