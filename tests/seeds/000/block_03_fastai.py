from fastai.vision.all import *
from pytorch_bfo_optimizer import HybridBFO

# Custom optimizer function
def bfo_opt(params, lr=0.1, **kwargs):
    return HybridBFO(params, population_size=20, gradient_weight=0.5)

# Create learner with BFO
learn = cnn_learner(
    dls, 
    resnet34, 
    opt_func=bfo_opt,
    metrics=accuracy
)

# Custom training loop for BFO
@patch
def fit_bfo(self: Learner, n_epoch, lr=None, **kwargs):
    self.opt = self.opt_func(self.model.parameters())
    
    for epoch in range(n_epoch):
        for batch in self.dls.train:
            def closure():
                self.model.zero_grad()
                loss = self.loss_func(self.model(*batch[:-1]), *batch[-1:])
                loss.backward()
                return loss.item()
            
            loss_val = self.opt.step(closure)
            self.recorder.log(loss_val)

# Train
learn.fit_bfo(10)
