"""Video decoding: exact frames by number from video files and from folders of image files.

`slowfast.datasets.decode` is the public face of this package. The package holds one concept per
module, from the file to the array:

    container     opens a file with FFmpeg and reads the packets of its video stream
    packets       reads packets from any index on, from memory or by seeking
    scan          reads a whole file once: frames, keyframes, missing data
    frame_index   when each frame is shown, and where decoding can start
    frame_table   the frame index of a long video in a file
    truncation    what a file holds, compared with what its container promises
    decoder       decodes packets in one thread and returns what FFmpeg reports
    damage        errors for damaged data, and the damage that decoders do not report
    jpeg, vp8     the two codecs whose decoders do not report data that ends too early
    ffmpeg_log    errors that FFmpeg reports only in its log
    frame_order   assigns frame numbers to decoded frames and checks their order
    frame_reader  seeks to and decodes the wanted frames
    images        converts decoded frames and image files to arrays
    video_file    VideoFile, frames of a video file
    frame_folder  FrameFolder, frames of a folder of image files
"""
