"""What a prediction is worth: panoptic quality as COCO defines it, relation accuracy, and tables of both."""
