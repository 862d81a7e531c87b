class MetricsTracker:
    def __init__(self):
        self.metrics = {
            'losses': [],
            'diversities': [],
            'step_sizes': [],
            'convergence_rate': []
        }
    
    def update(self, optimizer, loss):
        self.metrics['losses'].append(loss)
        self.metrics['diversities'].append(optimizer._compute_diversity())
        self.metrics['step_sizes'].append(optimizer.defaults['step_size_max'])
        
        # Calculate convergence rate
        if len(self.metrics['losses']) > 10:
            recent = self.metrics['losses'][-10:]
            rate = (recent[0] - recent[-1]) / (recent[0] + 1e-8)
            self.metrics['convergence_rate'].append(rate)
    
    def plot_metrics(self):
        import matplotlib.pyplot as plt
        
        fig, axes = plt.subplots(2, 2, figsize=(12, 8))
        
        axes[0,0].plot(self.metrics['losses'])
        axes[0,0].set_title('Loss')
        
        axes[0,1].plot(self.metrics['diversities'])
        axes[0,1].set_title('Population Diversity')
        
        axes[1,0].plot(self.metrics['step_sizes'])
        axes[1,0].set_title('Step Size')
        
        axes[1,1].plot(self.metrics['convergence_rate'])
        axes[1,1].set_title('Convergence Rate')
        
        plt.tight_layout()
        plt.show()

# Usage
tracker = MetricsTracker()
for step in range(1000):
    loss = optimizer.step(closure)
    tracker.update(optimizer, loss)

tracker.plot_metrics()
