# Dockerfile
FROM pytorch/pytorch:2.0.0-cuda11.7-cudnn8-runtime

WORKDIR /app

# Install dependencies
COPY requirements.txt .
RUN pip install -r requirements.txt
RUN pip install pytorch-bfo-optimizer

# Copy model and code
COPY model.pth .
COPY app.py .

# Run server
CMD ["python", "app.py"]
