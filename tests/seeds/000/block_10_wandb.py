import wandb

wandb.init(project="bfo-optimization", config={
    "population_size": 50,
    "learning_rate": 0.1,
    "architecture": "resnet18",
})

class WandBBFO(AdaptiveBFO):
    def step(self, closure):
        loss = super().step(closure)
        
        # Log to W&B
        wandb.log({
            "loss": loss,
            "best_fitness": self.best_fitness,
            "population_diversity": self._compute_diversity(),
            "step_size_max": self.defaults["step_size_max"],
            "elimination_prob": self.defaults["elim_prob"],
        })
        
        return loss

# Track model
wandb.watch(model)
optimizer = WandBBFO(model.parameters())
