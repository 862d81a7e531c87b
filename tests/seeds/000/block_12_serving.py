# Save trained model with BFO metadata
def save_bfo_model(model, optimizer, path):
    torch.save({
        'model_state_dict': model.state_dict(),
        'optimizer_state_dict': optimizer.state_dict(),
        'optimizer_config': {
            'population_size': optimizer.defaults['population_size'],
            'best_fitness': optimizer.best_fitness,
            'best_params': optimizer.best_params
        }
    }, path)

# Load for inference
def load_bfo_model(model_class, path):
    checkpoint = torch.load(path)
    model = model_class()
    model.load_state_dict(checkpoint['model_state_dict'])
    model.eval()
    return model, checkpoint['optimizer_config']

# Inference server
from flask import Flask, request, jsonify

app = Flask(__name__)
model, config = load_bfo_model(MyModel, 'model.pth')

@app.route('/predict', methods=['POST'])
def predict():
    data = torch.tensor(request.json['data'])
    with torch.no_grad():
        output = model(data)
    return jsonify({
        'prediction': output.tolist(),
        'model_fitness': config['best_fitness']
    })
