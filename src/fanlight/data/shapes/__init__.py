"""The built-in data set `shapes`: drawn scenes whose captions can be judged, because every caption can be read back to facts.

scene.py draws lots for what is in a scene and says its facts, draw.py makes the pixels, words.py and grammar.py the captions,
reading.py reads a caption back, write.py makes the folder, judge.py scores a table of captions.
"""
