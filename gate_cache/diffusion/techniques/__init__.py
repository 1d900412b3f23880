"""Generation techniques that steer a pass towards the input image (paper, 5.3). One a file."""
