import type { RefObject } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

/** An element's width in CSS pixels, followed as it changes. */
export function useWidth<T extends HTMLElement>(): readonly [RefObject<T | null>, number] {
  const element = useRef<T>(null);
  const [width, setWidth] = useState(0);
  useLayoutEffect(() => {
    const target = element.current;
    if (!target) return;
    const observer = new ResizeObserver(() => setWidth(target.clientWidth));
    setWidth(target.clientWidth);
    observer.observe(target);
    return () => observer.disconnect();
  }, []);
  return [element, width];
}

interface CanvasProps {
  readonly width: number;
  readonly height: number;
  readonly class?: string;
  /** Draws in CSS pixels; call it with another function to draw again. */
  readonly draw: (context: CanvasRenderingContext2D) => void;
}

/** A canvas as sharp as the screen. It is decoration to a screen reader: its wrapper carries the words. */
export function Canvas({ width, height, draw, class: className }: CanvasProps) {
  const element = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const canvas = element.current;
    const context = canvas?.getContext("2d");
    if (!canvas || !context || width <= 0) return;
    // At least 2, for paper is sharper than most screens.
    const density = Math.max(2, window.devicePixelRatio || 1);
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
    context.setTransform(density, 0, 0, density, 0, 0);
    draw(context);
  }, [width, height, draw]);
  return <canvas ref={element} class={className} style={{ width: `${width}px`, height: `${height}px` }} aria-hidden />;
}
