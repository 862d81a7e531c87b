from transformers import Trainer, TrainingArguments
from pytorch_bfo_optimizer import AdaptiveBFO
import torch

class BFOTrainer(Trainer):
    def create_optimizer(self):
        """Override to use BFO optimizer."""
        if self.optimizer is None:
            self.optimizer = AdaptiveBFO(
                self.model.parameters(),
                population_size=30,
                adaptation_rate=0.1
            )
        return self.optimizer
    
    def training_step(self, model, inputs):
        """Custom training step for BFO."""
        model.train()
        
        def closure():
            self.optimizer.zero_grad()
            loss = self.compute_loss(model, inputs)
            if self.args.gradient_accumulation_steps > 1:
                loss = loss / self.args.gradient_accumulation_steps
            loss.backward()
            return loss.item()
        
        # Step optimizer
        tr_loss = self.optimizer.step(closure)
        
        return tr_loss

# Usage
training_args = TrainingArguments(
    output_dir="./results",
    per_device_train_batch_size=16,
    num_train_epochs=3,
    logging_steps=10,
)

trainer = BFOTrainer(
    model=model,
    args=training_args,
    train_dataset=train_dataset,
    eval_dataset=eval_dataset,
)

trainer.train()
