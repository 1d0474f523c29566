__all__ = ['ttypes', 'constants', 'Base', 'Suite', 'Second']
