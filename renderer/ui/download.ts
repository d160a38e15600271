/** Offers a text or data URL to the browser as a file. */
export function download(name: string, content: string, type: string): void {
  const data = content.startsWith('data:');
  const address = data ? content : URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
  if (!data) setTimeout(() => URL.revokeObjectURL(address), 1000);
}
