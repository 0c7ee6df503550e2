// The test pattern's picture at one moment. Used by the page and by the worker.

/** Something moves in every frame, and the clock lets two screens be compared. */
export function draw(context, width, height, name, time) {
  const hue = [...name].reduce((sum, letter) => sum + 47 * letter.codePointAt(0), 160) % 360;
  const phase = (time / 8000) * 2 * Math.PI;
  const background = context.createLinearGradient(0, 0, width, height);
  background.addColorStop(0, `hsl(${hue + 18 * Math.sin(phase)} 42% 62%)`);
  background.addColorStop(1, `hsl(${hue + 60} 45% 34%)`);
  context.fillStyle = background;
  context.fillRect(0, 0, width, height);

  context.fillStyle = 'rgb(255 255 255 / 16%)';
  for (let ring = 0; ring < 5; ring++) {
    const angle = phase * (ring % 2 ? 1 : -1) + ring * 1.3;
    const x = width * (0.5 + 0.38 * Math.cos(angle));
    const y = height * (0.5 + 0.32 * Math.sin(angle * 1.5));
    context.beginPath();
    context.arc(x, y, height * (0.08 + 0.03 * ring), 0, 2 * Math.PI);
    context.fill();
  }

  const colours = ['#f4f4f0', '#e8d44d', '#4fc3d9', '#5cb85c', '#b55fb0', '#d9534f', '#4668c5', '#20262b'];
  colours.forEach((colour, place) => {
    context.fillStyle = colour;
    context.fillRect((width * place) / 8, height * 0.94, width / 8 + 1, height * 0.06);
  });

  context.textAlign = 'center';
  context.fillStyle = '#fff';
  context.shadowColor = 'rgb(0 0 0 / 35%)';
  context.shadowBlur = height * 0.03;
  const large = height * 0.15;
  const font = (size) => `600 ${Math.round(size)}px system-ui, "DejaVu Sans", sans-serif`;
  context.font = font(large);
  // A long name is small, not narrow.
  context.font = font(large * Math.min(1, (width * 0.9) / context.measureText(name).width));
  context.fillText(name, width / 2, height * 0.48);
  context.font = `400 ${Math.round(height * 0.085)}px ui-monospace, "DejaVu Sans Mono", monospace`;
  context.fillText(new Date(time).toISOString().slice(11, 23), width / 2, height * 0.66);
  context.shadowBlur = 0;

  const second = (time % 1000) / 1000;
  context.fillStyle = 'rgb(255 255 255 / 85%)';
  context.fillRect(0, height * 0.915, width * second, height * 0.025);
}
