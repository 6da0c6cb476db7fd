"""Recordings of the camera: the page sends them without the end of their last packet."""

from collections.abc import Iterator
from pathlib import Path

import av
from av.container import InputContainer


def drop_cut_packet(path: Path) -> None:
    """Rewrite a recording with its whole packets alone, and leave any other file as it is.

    gradio asks the browser for a recording in pieces of 200 ms and does not wait for the last one,
    so the file ends anywhere in a packet. A recording is a WebM file of unknown length. Nothing is
    encoded again, and the sound is dropped.

    Args:
        path: The file, in a folder of its own.
    """
    whole = path.with_name("whole.webm")
    try:
        with av.open(str(path), metadata_errors="ignore") as recording:
            if recording.format.name != "matroska,webm" or recording.duration is not None:
                return
            if not recording.streams.video:
                return
            with av.open(str(whole), "w", format="matroska") as output:
                stream = output.add_stream_from_template(recording.streams.video[0])
                for packet in _whole_packets(recording):
                    packet.stream = stream
                    output.mux(packet)
    except av.FFmpegError:
        return  # the reader of the video says what is wrong
    if whole.exists():  # it is not for a recording without a whole packet
        whole.replace(path)


def _whole_packets(recording: InputContainer) -> Iterator[av.Packet]:
    packets = recording.demux(video=0)
    while True:
        try:
            packet = next(packets)
        except (StopIteration, av.FFmpegError):  # the end, or a packet that it cuts
            return
        if packet.dts is not None and not packet.is_corrupt:
            yield packet
