# Optimized inference configuration
class ProductionBFOModel:
    def __init__(self, model_path, device='cuda'):
        self.device = device
        self.model = self.load_model(model_path)
        
        # Compile for inference
        if device == 'cuda':
            self.model = torch.compile(self.model, mode='reduce-overhead')
        
        # Warm up
        self.warmup()
    
    def load_model(self, path):
        model = MyModel()
        model.load_state_dict(torch.load(path)['model_state_dict'])
        model.to(self.device)
        model.eval()
        return model
    
    def warmup(self, num_runs=10):
        dummy_input = torch.randn(1, 784).to(self.device)
        with torch.no_grad():
            for _ in range(num_runs):
                _ = self.model(dummy_input)
    
    @torch.no_grad()
    def predict(self, x):
        x = x.to(self.device)
        return self.model(x).cpu()
    
    def batch_predict(self, batch, max_batch_size=128):
        results = []
        for i in range(0, len(batch), max_batch_size):
            sub_batch = batch[i:i+max_batch_size]
            results.append(self.predict(sub_batch))
        return torch.cat(results)
