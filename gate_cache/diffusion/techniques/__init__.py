"""Generation techniques that steer a pass towards the input image (METHOD 2). One a file."""
